-- As tick.lua, and begins a new epoch where what a connecting hub knows contradicts what is stored: a replica that
-- took over, or an append-only file that lost its tail, must end in a reset and never in a false proof.
--
-- KEYS[1]  clock: a hash of epoch, id (the greatest given out) and promotion (the takeover it was begun after)
-- KEYS[2]  last ids: a sorted set of each room's last id; the member "" keeps it from vanishing
--
-- ARGV[1]  the epoch to begin
-- ARGV[2]  how long a room's last id is remembered, in µs
-- ARGV[3]  the takeover this server went through, from INFO replication; "" for none
-- ARGV[4]  the epoch that the hub knows; "" for none. The rest is only looked at if it is still on.
-- ARGV[5]  the hub's position in it
-- ARGV[6…] for each room: the member in the last ids, and the greatest id that the hub received
--
-- Returns "<epoch>-<id>".

local time = redis.call('TIME')
local clock = redis.call('HMGET', KEYS[1], 'epoch', 'id', 'promotion')
local epoch, clock_id, promotion = clock[1], tonumber(clock[2]) or 0, clock[3] or ''
local id = math.max(time[1] * 1000000 + time[2], clock_id + 1)

local is_new = not epoch or not redis.call('ZSCORE', KEYS[2], '')
if ARGV[3] ~= '' and ARGV[3] ~= promotion then
  is_new = true
end
if not is_new and ARGV[4] == epoch then
  is_new = tonumber(ARGV[5]) > clock_id
  for argument = 6, #ARGV, 2 do
    local last = redis.call('ZSCORE', KEYS[2], ARGV[argument])
    local received = tonumber(ARGV[argument + 1])
    -- A room without a last id was silent for its lifetime.
    if received > (tonumber(last) or clock_id - tonumber(ARGV[2])) then
      is_new = true
    end
  end
end
if is_new then
  epoch = ARGV[1]
  redis.call('DEL', KEYS[2])
  redis.call('ZADD', KEYS[2], '+inf', '')
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'promotion', ARGV[3])
end
redis.call('HSET', KEYS[1], 'id', string.format('%.0f', id))
return epoch .. '-' .. string.format('%.0f', id)
