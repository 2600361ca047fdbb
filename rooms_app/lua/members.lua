-- Reads who is in a room, a page at a time.
--
-- KEYS, ARGV[1], ARGV[2]: see reap.lua and presence.lua
--
-- ARGV[3]  the room
-- ARGV[4]  where to go on; "0" at first
-- ARGV[5]  how many members to list, about; 0 for none
-- ARGV[6]  how much of what is left of processes to go through
--
-- Returns how many members there are, where to go on ("0" at the end), id and name of each member; nil where it has to
-- be asked again, since much is left of processes.

if not drain(tonumber(ARGV[6])) then
  return nil
end
local room = ARGV[3]
local count = redis.call('HLEN', members_of .. room) - redis.call('ZCOUNT', leaving_of .. room, '-inf', now)
if ARGV[5] == '0' then
  return {count, '0', {}}
end
local page = redis.call('HSCAN', members_of .. room, ARGV[4], 'COUNT', ARGV[5])
local listed = {}
for index = 1, #page[2], 2 do
  if is_in(room, page[2][index]) then
    listed[#listed + 1] = page[2][index]
    listed[#listed + 1] = page[2][index + 1]
  end
end
return {count, page[1], listed}
