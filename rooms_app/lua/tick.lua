-- Advances the clock to now and returns it: a position that everything sent before is not greater than. Begins a new
-- epoch on a replica that took over (see takeover.lua): it may lack what the master had last.
--
-- KEYS[1]  clock: a hash of epoch, id (the greatest given out) and promotion (the takeover it was begun after)
-- KEYS[2]  last ids: a sorted set of each room's last id; the member "" keeps it from vanishing
--
-- ARGV[1]  an epoch, should there be none
-- ARGV[2]  how long a room's last id is remembered, in µs
--
-- Returns "<epoch>-<id>".

local time = redis.call('TIME')
local clock = redis.call('HMGET', KEYS[1], 'epoch', 'id', 'promotion')
local epoch, promotion = clock[1], clock[3] or ''
local id = math.max(time[1] * 1000000 + time[2], (tonumber(clock[2]) or 0) + 1)
local id_text = string.format('%.0f', id)

if not epoch or not redis.call('ZSCORE', KEYS[2], '') or (takeover ~= '' and takeover ~= promotion) then
  epoch = ARGV[1]
  redis.call('DEL', KEYS[2])
  redis.call('ZADD', KEYS[2], '+inf', '')
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'promotion', takeover)
else
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.0f', id - tonumber(ARGV[2])))
end
redis.call('HSET', KEYS[1], 'id', id_text)
return epoch .. '-' .. id_text
