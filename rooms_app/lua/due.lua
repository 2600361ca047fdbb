-- Lists the members whose time to leave has come, and rooms are to be told of.
--
-- KEYS, ARGV[1], ARGV[2]: see reap.lua and presence.lua
--
-- ARGV[3]  the process that asks
-- ARGV[4]  how many to list at most
--
-- Returns how many members are on record for the process, -1 where it is not known; 1 where there may be more; for each
-- room its name, and id, name and time of each member.

local process, limit = ARGV[3], tonumber(ARGV[4])
if not is_known(process) then
  return {-1, 0, {}}
end
redis.call('PEXPIRE', held_of .. process, kept)
local is_all = drain(limit)
local found, number = {}, 0
local rooms = redis.call('ZRANGEBYSCORE', leaving, '-inf', now, 'LIMIT', 0, limit)
for _, room in ipairs(rooms) do
  local rows = redis.call(
    'ZRANGEBYSCORE', leaving_of .. room, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit - number)
  local listed = {}
  for index = 1, #rows, 2 do
    local id, name = rows[index], redis.call('HGET', members_of .. room, rows[index])
    if name and not is_held(room, id) then
      listed[#listed + 1] = id
      listed[#listed + 1] = name
      listed[#listed + 1] = rows[index + 1]
    else
      redis.call('ZREM', leaving_of .. room, id)
    end
  end
  if #listed > 0 then
    found[#found + 1] = {room, listed}
  else
    note_first(room)
  end
  number = number + #rows / 2
  if number >= limit then
    break
  end
end
is_all = is_all and number < limit and #rooms < limit
return {redis.call('SCARD', held_of .. process) - 1, is_all and 0 or 1, found}
