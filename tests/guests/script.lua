-- Work for Lua: tables, strings, closures, coroutines, errors, garbage. script.lua [N]
local n = tonumber(arg[1] or "200000")

local words, count = {}, 0
for i = 1, n do
  local key = ("k%05d"):format((i * 7919) % 10007)
  words[key] = (words[key] or 0) + i
end
local keys = {}
for key in pairs(words) do keys[#keys + 1] = key end
table.sort(keys)
local sum = 0
for i, key in ipairs(keys) do sum = (sum * 31 + words[key]) % 1000000007 end
print("table", #keys, sum)

local text = ("the quick brown fox "):rep(n // 100)
print("gsub", select(2, text:gsub("%w+", string.upper)), #text)

local function generate(limit)
  return coroutine.wrap(function()
    local a, b = 0, 1
    while a < limit do
      coroutine.yield(a)
      a, b = b, a + b
    end
  end)
end
local total = 0
for f in generate(1e15) do total = total + f end
print("coroutine", total)

print("error", pcall(function() error({ code = 42 }) end) == false, select(2, pcall(error, "said", 0)))

local garbage = {}
for i = 1, n do garbage[i % 1000 + 1] = { i, tostring(i), function() return i end } end
for _, item in ipairs(garbage) do count = count + item[3]() end
collectgarbage()
print("garbage", count)

print("format", ("%.10g %x %q"):format(math.pi, 48879, "a\nb"))
