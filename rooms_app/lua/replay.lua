-- Reads what rooms were sent after a cursor, with the proof that nothing is missing. Writes nothing.
--
-- KEYS[1]  clock: a hash of epoch, id (the greatest given out) and promotion
-- KEYS[2]  last ids: a sorted set of each room's last id; the member "" keeps it from vanishing
-- KEYS[3…] for each room: its stream
--
-- ARGV[1]  the cursor's epoch
-- ARGV[2]  how long a room's last id is remembered, in µs
-- ARGV[3…] for each room: the member in the last ids, and the id after which to read
--
-- Returns, for each room, false where something may be missing, else its entries in order; or nil in another epoch.

local time = redis.call('TIME')
local clock = redis.call('HMGET', KEYS[1], 'epoch', 'id')
if clock[1] ~= ARGV[1] or not redis.call('ZSCORE', KEYS[2], '') then
  return nil
end
local now = math.max(time[1] * 1000000 + time[2], tonumber(clock[2]))
local found = {}
for room = 1, #KEYS - 2 do
  local member, after = ARGV[1 + room * 2], tonumber(ARGV[2 + room * 2])
  local last = redis.call('ZSCORE', KEYS[2], member)
  local entries = {}
  local is_complete
  if not last then
    is_complete = after >= now - tonumber(ARGV[2])
  elseif tonumber(last) <= after then
    is_complete = true
  else
    local rows = redis.call('XRANGE', KEYS[2 + room], '(' .. string.format('%.0f', after), '+')
    for row = 1, #rows do
      entries[row] = rows[row][2][2]
    end
    local previous = entries[1] and string.match(entries[1], '^\193[^:]*:%d+:(%d+)\n')
    is_complete = previous and tonumber(previous) <= after
  end
  found[room] = is_complete and entries or false
end
return found
