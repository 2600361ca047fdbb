-- What the scripts of counts and presence share; it stands before each of them. A process that has not renewed its
-- lease in time is taken out of the totals, by whoever comes next, reader or writer.
--
-- KEYS[1]  processes: a sorted set of each process, by the end of its lease in ms
-- KEYS[2]  totals: a sorted set of each room, by its connections in all processes; the member "" keeps it from vanishing
--
-- ARGV[1]  what the keys below begin with:
--          counts:<process>  a hash of rooms, "*" for all its connections
--          gone              a sorted set of counts of processes that are still to be taken out of the totals
--          gone:<name>       what is left of counts:<process>
--          held:<process>    a set of the members that it has, each with its room; "" keeps it from vanishing
--          ended             a sorted set of what is left of processes, by the time in ms when their members are due
--          ended:<name>      what held:<process> was

local processes, totals, ended, gone = KEYS[1], KEYS[2], ARGV[1] .. 'ended', ARGV[1] .. 'gone'
local counts_of, held_of, ended_of = ARGV[1] .. 'counts:', ARGV[1] .. 'held:', ARGV[1] .. 'ended:'
local gone_of = ARGV[1] .. 'gone:'
-- How many rooms one script takes out of the totals: Redis does nothing else meanwhile.
local budget = 2000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function add(room, number)
  if room ~= '*' and number ~= 0 and tonumber(redis.call('ZINCRBY', totals, number, room)) <= 0 then
    redis.call('ZREM', totals, room)
  end
end

-- Takes what is gone out of the totals, as far as the budget goes; whoever comes next goes on.
local function subtract()
  for _, name in ipairs(redis.call('ZRANGE', gone, 0, -1)) do
    if budget <= 0 then
      return
    end
    -- At random, and not by HSCAN: that begins with what is empty already, and finds nothing in a big hash.
    local part = redis.call('HRANDFIELD', gone_of .. name, budget, 'WITHVALUES')
    for index = 1, #part, 2 do
      add(part[index], -tonumber(part[index + 1]))
      redis.call('HDEL', gone_of .. name, part[index])
    end
    if redis.call('EXISTS', gone_of .. name) == 0 then
      redis.call('ZREM', gone, name)
    end
    budget = budget - #part / 2
  end
end

local function forget_counts(process)
  if redis.call('EXISTS', counts_of .. process) == 1 then
    local name = string.format('%s-%s-%s', time[1], time[2], process)
    redis.call('ZADD', gone, now, name)
    redis.call('RENAME', counts_of .. process, gone_of .. name)
    subtract()
  end
end

-- Sets apart what a process held, for the scripts of presence to go through in parts: it may be much.
local function release(process, due)
  if redis.call('EXISTS', held_of .. process) == 1 then
    local name = string.format('%s-%s-%s', time[1], time[2], process)
    redis.call('ZADD', ended, due, name)
    redis.call('RENAME', held_of .. process, ended_of .. name)
  end
end

local function forget(process)
  forget_counts(process)
  release(process, now)
  redis.call('ZREM', processes, process)
end

if redis.call('ZSCORE', totals, '') then
  for _, process in ipairs(redis.call('ZRANGEBYSCORE', processes, '-inf', '(' .. now)) do
    forget(process)
  end
  subtract()
else
  -- Redis has lost what it knew: each process tells it anew, and its members are given the time for that.
  for _, process in ipairs(redis.call('ZRANGE', processes, 0, -1)) do
    redis.call('DEL', counts_of .. process)
    release(process, now + 10000)
  end
  for _, name in ipairs(redis.call('ZRANGE', gone, 0, -1)) do
    redis.call('DEL', gone_of .. name)
  end
  redis.call('DEL', processes, totals, gone)
end
