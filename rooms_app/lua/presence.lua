-- What the scripts of presence share; it stands behind reap.lua.
--
-- ARGV[1]  what the keys begin with; beside those of reap.lua:
--          members:<room>  a hash of the room's members: id, name
--          leaving:<room>  a sorted set of those of them whom no process has any more, by the time in ms when they leave
--          leaving         a sorted set of rooms where somebody is about to leave, by when the first does, or earlier
-- ARGV[2]  how long all of it is kept when nobody comes any more, in ms

local kept = ARGV[2]
local members_of, leaving_of, leaving = ARGV[1] .. 'members:', ARGV[1] .. 'leaving:', ARGV[1] .. 'leaving'
local live, over = redis.call('ZRANGE', processes, 0, -1), redis.call('ZRANGE', ended, 0, -1)

local function pack(room, id)
  return #room .. ':' .. room .. id
end

local function unpack_member(packed)
  local length, rest = string.match(packed, '^(%d+):(.*)$')
  return string.sub(rest, 1, tonumber(length)), string.sub(rest, tonumber(length) + 1)
end

local function is_held(room, id)
  local packed = pack(room, id)
  for _, process in ipairs(live) do
    if redis.call('SISMEMBER', held_of .. process, packed) == 1 then
      return true
    end
  end
  return false
end

-- Whether readers see a member. One whose time is over is no more to be seen, though the room is still to be told.
local function is_in(room, id)
  local due = redis.call('ZSCORE', leaving_of .. room, id)
  return redis.call('HEXISTS', members_of .. room, id) == 1 and not (due and tonumber(due) <= now)
end

local function is_known(process)
  return redis.call('ZSCORE', processes, process) and redis.call('SISMEMBER', held_of .. process, '') == 1
end

local function hold(process, room, id, name)
  redis.call('SADD', held_of .. process, pack(room, id))
  redis.call('HSET', members_of .. room, id, name)
  redis.call('ZREM', leaving_of .. room, id)
  for _, left in ipairs(over) do
    -- When that process's members are due is no concern of hers any more.
    redis.call('SREM', ended_of .. left, pack(room, id))
  end
end

local function keep(room)
  redis.call('PEXPIRE', members_of .. room, kept)
  redis.call('PEXPIRE', leaving_of .. room, kept)
end

local function note_first(room)
  local first = redis.call('ZRANGE', leaving_of .. room, 0, 0, 'WITHSCORES')[2]
  if first then
    redis.call('ZADD', leaving, first, room)
    redis.call('PEXPIRE', leaving, kept)
  else
    redis.call('ZREM', leaving, room)
  end
end

local function leave(room, id, due)
  if redis.call('HEXISTS', members_of .. room, id) == 0 or is_held(room, id) then
    return
  end
  local before = redis.call('ZSCORE', leaving_of .. room, id)
  if not before or tonumber(before) > due then
    redis.call('ZADD', leaving_of .. room, due, id)
    redis.call('PEXPIRE', leaving_of .. room, kept)
    note_first(room)
  end
end

-- Goes through what is left of processes, so many members at most; whether that was all.
local function drain(limit)
  for _, name in ipairs(over) do
    if limit <= 0 then
      return false
    end
    local due = tonumber(redis.call('ZSCORE', ended, name))
    local part = redis.call('SRANDMEMBER', ended_of .. name, limit)
    for _, packed in ipairs(part) do
      if packed ~= '' then
        local room, id = unpack_member(packed)
        leave(room, id, due)
      end
      redis.call('SREM', ended_of .. name, packed)
    end
    limit = limit - #part
    if redis.call('EXISTS', ended_of .. name) == 1 then
      return false
    end
    redis.call('ZREM', ended, name)
  end
  return true
end
