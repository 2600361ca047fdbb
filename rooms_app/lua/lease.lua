-- Renews a process's lease, and writes the counts of rooms that have changed. What it writes is absolute, so that it
-- can be tried again.
--
-- KEYS, ARGV[1]: see reap.lua
--
-- ARGV[2]  the process
-- ARGV[3]  how long its lease lasts, in ms; 0 to give it up
-- ARGV[4]  how long all of it is kept when nobody comes any more, in ms
-- ARGV[5]  "1" where what follows is all that it has, or the beginning of it
-- ARGV[6…] pairs of room and connections
--
-- Returns how many rooms are on record for the process; -1 where it has no lease, and has to tell everything.

local process, lease, kept = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local counts = counts_of .. process

if lease == 0 then
  forget(process)
  return 0
end
if ARGV[5] == '1' then
  forget_counts(process)
elseif not redis.call('ZSCORE', processes, process) then
  return -1
end
redis.call('ZADD', totals, '+inf', '')
redis.call('ZADD', processes, now + lease, process)
for index = 6, #ARGV, 2 do
  local room, number = ARGV[index], tonumber(ARGV[index + 1])
  add(room, number - (tonumber(redis.call('HGET', counts, room)) or 0))
  if number > 0 then
    redis.call('HSET', counts, room, number)
  else
    redis.call('HDEL', counts, room)
  end
end
redis.call('PEXPIRE', counts, kept)
redis.call('PEXPIRE', processes, kept)
redis.call('PEXPIRE', totals, kept)
return redis.call('HLEN', counts)
