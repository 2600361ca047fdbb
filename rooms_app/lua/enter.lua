-- Puts members of rooms on record who are in already, by another process or a moment ago: no message goes out. What it
-- writes is absolute, so that it can be tried again.
--
-- KEYS, ARGV[1], ARGV[2]: see reap.lua and presence.lua
--
-- ARGV[3]  the process
-- ARGV[4]  "" or, where what follows is all that it has, or the beginning of it, when what it had before is due, in ms
--          from now
-- ARGV[5…] room, id and name of each member
--
-- Returns which of them are not in yet, counted from 1, and so not on record; -1 where the process is not known.

local process = ARGV[3]
if ARGV[4] ~= '' and redis.call('ZSCORE', processes, process) then
  release(process, now + tonumber(ARGV[4]))
  over = redis.call('ZRANGE', ended, 0, -1)
  redis.call('SADD', held_of .. process, '')
end
if not is_known(process) then
  return -1
end
redis.call('PEXPIRE', held_of .. process, kept)
local new = {}
for index = 5, #ARGV, 3 do
  local room, id = ARGV[index], ARGV[index + 1]
  if is_in(room, id) then
    hold(process, room, id, ARGV[index + 2])
    keep(room)
  else
    new[#new + 1] = (index - 5) / 3 + 1
  end
end
return new
