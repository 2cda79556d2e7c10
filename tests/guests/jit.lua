-- For LuaJIT, which makes machine code of what runs often: recursion, integers, strings, C structures, and traces that leave
-- by the other branch. Prints the same with and without it.
local bit = require("bit")
local ffi = require("ffi")
local rounds = tonumber(arg[1]) or 1000000

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end
print(fib(22))

local x, sum = 123456789, 0
for i = 1, rounds do
  x = bit.bxor(x, bit.lshift(x, 13))
  x = bit.bxor(x, bit.rshift(x, 17))
  x = bit.bxor(x, bit.lshift(x, 5))
  if bit.band(x, 7) == 0 then sum = sum - bit.band(x, 255) else sum = (sum + bit.band(x, 255)) % 1000003 end
end
print(sum)

local names = {}
for i = 1, 5000 do names[#names + 1] = tostring(i * 7 % 1009) end
table.sort(names)
print(names[1], names[#names], #table.concat(names))

ffi.cdef [[ typedef struct { double x, y; int n; } point; ]]
local points = ffi.new("point[256]")
for round = 1, rounds / 10000 do
  for i = 0, 255 do
    points[i].x = i
    points[i].y = points[i].y / 2 + points[i].x * round
    points[i].n = points[i].n + i
  end
end
print(string.format("%.6f %d", points[255].y, points[255].n))
