// SQLite, linked statically: loads ROWS rows into a database file, indexes and queries it, prints a digest.
// sql DATABASE ROWS
#include <sqlite3.h>
#include <stdint.h>

#include "check.h"

static sqlite3* db;
static void run(const char* sql) {
  char* message = NULL;
  if (sqlite3_exec(db, sql, NULL, NULL, &message) == SQLITE_OK) return;
  fprintf(stderr, "%s: %s\n", sql, message);
  exit(1);
}

static uint64_t digest = 14695981039346656037u;  // FNV-1a
static void mix(const unsigned char* bytes, int n) {
  for (int i = 0; i < n; ++i) digest = (digest ^ bytes[i]) * 1099511628211u;
}

static void query(const char* sql) {
  sqlite3_stmt* statement;
  CHECK(sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK);
  int rows = 0, rc;
  for (; (rc = sqlite3_step(statement)) == SQLITE_ROW; ++rows)
    for (int c = 0; c < sqlite3_column_count(statement); ++c) {
      const unsigned char* text = sqlite3_column_text(statement, c);
      mix(text, sqlite3_column_bytes(statement, c));
      if (rows == 0) printf("%s%s", c ? "|" : "", text);
    }
  CHECK(rc == SQLITE_DONE && sqlite3_finalize(statement) == SQLITE_OK);
  printf("  (%d rows)\n", rows);
}

int main(int argc, char** argv) {
  CHECK(argc == 3);
  long rows = atol(argv[2]);
  CHECK(sqlite3_open(argv[1], &db) == SQLITE_OK);
  run("PRAGMA page_size = 4096; PRAGMA cache_size = -16000;"
      "CREATE TABLE readings(id INTEGER PRIMARY KEY, sensor INTEGER, value REAL, note TEXT)");
  run("BEGIN");
  sqlite3_stmt* insert;
  CHECK(sqlite3_prepare_v2(db, "INSERT INTO readings VALUES(?,?,?,?)", -1, &insert, NULL) == SQLITE_OK);
  uint64_t state = 42;
  for (long i = 1; i <= rows; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    char note[32];
    int n = snprintf(note, sizeof note, "note %llu", (unsigned long long)(state >> 44));
    sqlite3_bind_int64(insert, 1, i);
    sqlite3_bind_int64(insert, 2, (long)(state >> 33) % 1000);
    sqlite3_bind_double(insert, 3, (double)(state >> 40) / 1000.0);
    sqlite3_bind_text(insert, 4, note, n, SQLITE_STATIC);
    CHECK(sqlite3_step(insert) == SQLITE_DONE && sqlite3_reset(insert) == SQLITE_OK);
  }
  CHECK(sqlite3_finalize(insert) == SQLITE_OK);
  run("COMMIT; CREATE INDEX by_sensor ON readings(sensor, value)");
  query("SELECT count(*), sum(sensor), round(avg(value), 6) FROM readings");
  query("SELECT sensor, count(*), max(value) FROM readings GROUP BY sensor ORDER BY sensor");
  query("SELECT a.id, b.id FROM readings a JOIN readings b ON a.sensor = b.sensor AND a.value = b.value AND a.id < b.id "
        "ORDER BY a.id LIMIT 100");
  query("SELECT note FROM readings WHERE note LIKE '%777%' ORDER BY note DESC LIMIT 50");
  run("UPDATE readings SET value = value * 2 WHERE sensor = 7; DELETE FROM readings WHERE sensor = 13");
  query("PRAGMA integrity_check");
  CHECK(sqlite3_close(db) == SQLITE_OK);
  printf("digest %016llx\n", (unsigned long long)digest);
  return 0;
}
