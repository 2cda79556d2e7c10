// Lua, linked statically: script FILE [ARG...]
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "check.h"

int main(int argc, char** argv) {
  CHECK(argc >= 2);
  lua_State* lua = luaL_newstate();
  CHECK(lua);
  luaL_openlibs(lua);
  lua_createtable(lua, argc, 0);
  for (int i = 1; i < argc; ++i) {
    lua_pushstring(lua, argv[i]);
    lua_rawseti(lua, -2, i - 1);
  }
  lua_setglobal(lua, "arg");
  if (luaL_dofile(lua, argv[1]) == LUA_OK) {
    lua_close(lua);
    return 0;
  }
  fprintf(stderr, "%s\n", lua_tostring(lua, -1));
  return 1;
}
