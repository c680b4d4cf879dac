"""The one step in which a batch goes into Redis: a Lua script, which Redis runs whole and alone.

Owns how values merge in the store. A script is not rolled back where it fails, so all that can be looked at (a key that
holds something else, a number that is none) comes before the first write. Redis itself refuses for a full memory or
disk only at the first write, and for the user's rights to keys before it begins.

It answers 1 when it has written, and 0, having written nothing, when the store is not in the state from which the
caller has worked out what is new.
"""

from __future__ import annotations

from typing import Final

#: KEYS: the hash of what is applied, the stream, the set of all endpoints, the set of those online, and then whatever
#: ARGV[1] refers to by number. ARGV[1] is JSON, see `connectors.sinks.redis_changes.Changes.payload`.
SCRIPT: Final = """\
local change = cjson.decode(ARGV[1])

local function read(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    error('the key ' .. string.sub(key, 1, 200) .. ': ' .. answer.err, 0)
  end
  return answer
end

local function number(text, key)
  local found = tonumber(text)
  if not found then error('the key ' .. string.sub(key, 1, 200) .. ' is no statistics of this sink', 0) end
  return found
end

-- As few digits as bring the same number back.
local function text(value)
  if value % 1 == 0 and value > -1e15 and value < 1e15 then return string.format('%d', value) end
  local short = string.format('%.15g', value)
  if tonumber(short) == value then return short end
  return string.format('%.17g', value)
end

local function newer(one, other)
  for at = 1, 5 do
    if one[at] ~= other[at] then return one[at] > other[at] end
  end
  return false
end

local function sum(a, b)
  local total = a + b
  local part = total - a
  return total, (a - (total - part)) + (b - part)
end

local function product(a, b)
  local total = a * b
  local split = 134217729 * a
  local a_high = split - (split - a)
  split = 134217729 * b
  local b_high = split - (split - b)
  local a_low, b_low = a - a_high, b - b_high
  return total, ((a_high * b_high - total) + a_high * b_low + a_low * b_high) + a_low * b_low
end

-- 1. Is the store where the caller believes it to be?
for _, one in ipairs(change.applied) do
  if (read('HGET', KEYS[1], one[1]) or '') ~= one[2] then return 0 end
end
for _, one in ipairs(change.endpoints) do
  if (read('HGET', KEYS[one[1]], 'at') or '') ~= one[3] then return 0 end
end
read('XLEN', KEYS[2])
read('SCARD', KEYS[3])
read('SCARD', KEYS[4])

-- 2. The values that are newer than those that are there.
local latest = {}
for _, one in ipairs(change.latest) do
  local there = read('HGET', KEYS[one[1]], one[2])
  local known = false
  if there then
    local good, old = pcall(cjson.decode, there)
    if good and type(old) == 'table' and type(old.order) == 'table' and #old.order == 5 then
      known = not newer(one[3], old.order)
    end
  end
  if not known then latest[#latest + 1] = one end
end

-- 3. The statistics, merged (Chan et al. 1979), mean and squares in two doubles each.
local statistics = {}
for _, one in ipairs(change.statistics) do
  local key = KEYS[one.key]
  local old = read('HMGET', key, 'count', 'mean', 'mean_low', 'm2', 'm2_low', 'min', 'max', 'sum', 'left_out', 'order',
    'last', 'last_time')
  local count, mean, mean_low, m2, m2_low = one.count, one.mean, one.mean_low, one.m2, 0
  local min, max, total, left_out = one.min, one.max, one.sum, one.left_out
  local order, last, last_time = one.order, one.last, one.last_time
  if old[1] then
    local had = number(old[1], key)
    left_out = left_out + number(old[9], key)
    if had > 0 then
      local n1, n2 = had, count
      count = n1 + n2
      local mean1, low1 = number(old[2], key), number(old[3], key)
      if n2 == 0 then
        mean, mean_low, m2, m2_low = mean1, low1, number(old[4], key), number(old[5], key)
        min, max, total = number(old[6], key), number(old[7], key), number(old[8], key)
      else
        local delta, low = sum(mean, -mean1)
        delta, low = sum(delta, low + (mean_low - low1))
        local up, up_low = product(delta, n2)
        up, up_low = sum(up, up_low + low * n2)
        local step = up / count
        local back, back_low = product(step, count)
        local step_low = ((up - back) - back_low + up_low) / count
        mean, mean_low = sum(mean1, step)
        mean, mean_low = sum(mean, mean_low + low1 + step_low)
        local between = delta * delta * (n1 / count) * n2
        local squares, rest = sum(number(old[4], key), m2)
        rest = rest + number(old[5], key)
        local error
        squares, error = sum(squares, between)
        m2, m2_low = sum(squares, error + rest)
        min = math.min(min, number(old[6], key))
        max = math.max(max, number(old[7], key))
        total = total + number(old[8], key)
      end
      local known = {}
      for part in string.gmatch(old[10] or '', '%S+') do known[#known + 1] = number(part, key) end
      if #known == 5 and (n2 == 0 or not newer(order, known)) then
        order, last, last_time = known, number(old[11], key), old[12]
      end
    end
  end
  local fields = {'count', text(count), 'left_out', text(left_out)}
  if count > 0 then
    local variance = math.max(0, m2 / count)
    local place = {}
    for at = 1, 5 do place[at] = text(order[at]) end
    fields = {'count', text(count), 'mean', text(mean), 'variance', text(variance),
      'std_dev', text(math.sqrt(variance)), 'min', text(min), 'max', text(max), 'sum', text(total),
      'last', text(last), 'last_time', last_time, 'left_out', text(left_out), 'mean_low', text(mean_low),
      'm2', text(m2), 'm2_low', text(m2_low), 'order', table.concat(place, ' ')}
  end
  statistics[#statistics + 1] = {key, fields}
end

-- 4. Write. What fails now (a command that the user may not give) fails before anything that must not be done twice:
-- first what changes nothing, then what may be repeated, then the stream, and last what counts.
for _, one in ipairs(change.applied) do redis.call('HSET', KEYS[1], one[1], one[2]) end
for _, one in ipairs(change.endpoints) do
  redis.call('SADD', KEYS[3], one[2])
  redis.call(one[4] and 'SADD' or 'SREM', KEYS[4], one[2])
  if #one[6] > 0 then redis.call('HDEL', KEYS[one[1]], unpack(one[6])) end
  redis.call('HSET', KEYS[one[1]], unpack(one[5]))
end
for _, one in ipairs(latest) do redis.call('HSET', KEYS[one[1]], one[2], one[4]) end
for _, one in ipairs(change.stream) do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', change.stream_max, '*', 'ep', one[1], 'path', one[2], 'type', one[3],
    'value', one[4], 'time', one[5], 'gatewayTime', one[6], 'kind', one[7], 'code', one[8], 'ticket', one[9],
    'observationId', one[10], 'late', one[11])
end
for _, one in ipairs(statistics) do redis.call('HSET', one[1], unpack(one[2])) end
for _, one in ipairs(change.applied) do redis.call('HSET', KEYS[1], one[1], one[3]) end
return 1
"""
