-- What the scripts of counts share; it stands before each of them. A process that has not renewed its lease in time is
-- taken out of the totals, by whoever comes next, reader or writer.
--
-- KEYS[1]  processes: a sorted set of each process, by the end of its lease in ms
-- KEYS[2]  totals: a sorted set of each room, by its connections in all processes; the member "" keeps it from vanishing
--
-- ARGV[1]  what the key of each process's counts begins with: a hash of rooms, "*" for all its connections

local processes, totals, counts_of = KEYS[1], KEYS[2], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function add(room, number)
  if room ~= '*' and number ~= 0 and tonumber(redis.call('ZINCRBY', totals, number, room)) <= 0 then
    redis.call('ZREM', totals, room)
  end
end

local function forget(process)
  local counts = redis.call('HGETALL', counts_of .. process)
  for index = 1, #counts, 2 do
    add(counts[index], -tonumber(counts[index + 1]))
  end
  redis.call('DEL', counts_of .. process)
  redis.call('ZREM', processes, process)
end

if redis.call('ZSCORE', totals, '') then
  for _, process in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', '(' .. now)) do
    forget(process)
  end
else
  -- Redis has lost what it knew: each process tells it anew.
  for _, process in ipairs(redis.call('ZRANGE', processes, 0, -1)) do
    redis.call('DEL', counts_of .. process)
  end
  redis.call('DEL', processes, totals)
end
