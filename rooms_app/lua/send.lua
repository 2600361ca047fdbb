-- Sends one message to rooms: takes the next id, appends to each room's history, publishes. Atomic, and all checks
-- come before the first write.
--
-- KEYS[1]  clock: a hash of epoch, id (the greatest given out) and promotion
-- KEYS[2]  last ids: a sorted set of each room's last id; the member "" keeps it from vanishing
-- KEYS[3]  the idempotency key: a string, what the first such send returned
-- KEYS[4…] for each room: its stream, and its hash of retained messages
--
-- ARGV[1]  an epoch, should there be none
-- ARGV[2]  how long a room's last id is remembered, in µs
-- ARGV[3]  the serialised message
-- ARGV[4]  how long the idempotency key is remembered, in ms
-- ARGV[5]  the name under which the message is retained; "" for not at all
-- ARGV[6…] for each room: the member in the last ids, the channel, the history's length and its age in ms; a length
--          of 0 for no history
--
-- Returns "<epoch>-<id>", "" where the first such send had no history.

local clock_key, lasts_key, once_key = KEYS[1], KEYS[2], KEYS[3]
local lifetime, payload, retained_as = tonumber(ARGV[2]), ARGV[3], ARGV[5]

local before = redis.call('GET', once_key)
if before then
  return before
end
local time = redis.call('TIME')
local clock = redis.call('HMGET', clock_key, 'epoch', 'id')
local epoch = clock[1]
local is_new = not epoch or not redis.call('ZSCORE', lasts_key, '')
local id = math.max(time[1] * 1000000 + time[2], (tonumber(clock[2]) or 0) + 1)
local id_text = string.format('%.0f', id)

if is_new then
  -- What is left of an epoch before must not be taken for this one's.
  epoch = ARGV[1]
  redis.call('DEL', lasts_key)
  redis.call('ZADD', lasts_key, '+inf', '')
  redis.call('HSET', clock_key, 'epoch', epoch)
elseif id % 256 < 1 then
  -- Removed by the clock's own time, not by EXPIRE: a server whose time steps back must not forget too early.
  redis.call('ZREMRANGEBYSCORE', lasts_key, '-inf', string.format('(%.0f', id - lifetime))
end
redis.call('HSET', clock_key, 'id', id_text)

local cursor = ''
for room = 0, (#KEYS - 3) / 2 - 1 do
  local stream, retained = KEYS[4 + room * 2], KEYS[5 + room * 2]
  local member, channel = ARGV[6 + room * 4], ARGV[7 + room * 4]
  local length, age = tonumber(ARGV[8 + room * 4]), tonumber(ARGV[9 + room * 4])
  local entry = payload
  if length > 0 then
    cursor = epoch .. '-' .. id_text
    local previous = redis.call('ZSCORE', lasts_key, member)
    if not previous then
      -- Forgotten, so older than that; and its stream, if there is one, is of an epoch before.
      previous = string.format('%.0f', id - lifetime)
      redis.call('DEL', stream)
    end
    entry = '\193' .. epoch .. ':' .. id_text .. ':' .. previous .. '\n' .. payload
    redis.call('XADD', stream, 'MAXLEN', length, id_text, 'm', entry)
    redis.call('XTRIM', stream, 'MINID', string.format('%.0f', math.max(id - age * 1000, 0)))
    redis.call('PEXPIRE', stream, age)
    redis.call('ZADD', lasts_key, id_text, member)
  end
  if retained_as ~= '' then
    redis.call('HSET', retained, retained_as, entry)
    redis.call('PEXPIRE', retained, string.format('%.0f', lifetime / 1000))
  end
  redis.call('PUBLISH', channel, entry)
end
redis.call('SET', once_key, cursor, 'PX', ARGV[4])
return cursor
