-- Takes members off a process's record; those whom no other process has are to leave. What it writes is absolute, so
-- that it can be tried again.
--
-- KEYS, ARGV[1], ARGV[2]: see reap.lua and presence.lua
--
-- ARGV[3]  the process
-- ARGV[4]  "" or, to take off all that it has, when they are to leave, in ms from now
-- ARGV[5…] room and id of each member, and when it is to leave, in ms from now

local process = ARGV[3]
if ARGV[4] ~= '' then
  release(process, now + tonumber(ARGV[4]))
end
for index = 5, #ARGV, 3 do
  local room, id = ARGV[index], ARGV[index + 1]
  redis.call('SREM', held_of .. process, pack(room, id))
  leave(room, id, now + tonumber(ARGV[index + 2]))
end
