// What the page-entry formats of both architectures have in common: four levels of 512 entries over
// 4 KiB pages, and the attributes that guest-mm asks for. A format (x86_64/entry.hpp, arm64/entry.hpp)
// is a struct of static constexpr functions with the names that the concept below lists.
#pragma once

#include <concepts>
#include <cstdint>

namespace ramet::arch {

using Entry = std::uint64_t;

// Levels as Linux counts them, leaf-most first. A PTE maps 4 KiB, a PMD leaf 2 MiB, a PUD leaf 1 GiB.
enum class Level : std::uint8_t { Pte = 0, Pmd = 1, Pud = 2, Pgd = 3 };
inline constexpr unsigned kLevels = 4;
inline constexpr unsigned kEntriesPerTable = 512;
constexpr unsigned shift_of(Level l) { return 12 + 9 * unsigned(l); }
constexpr std::uint64_t span_of(Level l) { return 1ull << shift_of(l); }
constexpr unsigned index_of(Level l, std::uint64_t address) {
  return (address >> shift_of(l)) & (kEntriesPerTable - 1);
}

struct Attributes {
  bool write = false;
  bool execute = false;    // by user code if `user`, else by ring 0 / EL1
  bool user = true;
  bool accessed = true;    // set beforehand, so that the hardware has no reason to write the entry
  bool dirty = false;
  bool deferred_exec = false;  // software bit: the region allows execution, the entry withholds it yet
  bool ahead = false;      // software bit: mapped beside a page that was accessed; nobody has asked for this one
  bool operator==(const Attributes&) const = default;
};

// Readable is implied by present; a region without any permission has no present entries.
template <class F>
concept EntryFormat = requires(Entry e, std::uint64_t pa, Level l, Attributes a) {
  { F::leaf(pa, l, a) } -> std::same_as<Entry>;       // pa aligned to span_of(l)
  { F::table(pa) } -> std::same_as<Entry>;            // pa page-aligned
  { F::shared_table(pa) } -> std::same_as<Entry>;     // nothing below may be written through it, see kSharedTable
  { F::kSharedHidden } -> std::convertible_to<bool>;  // nor read: the format cannot withhold writing alone
  { F::present(e) } -> std::same_as<bool>;            // the hardware may use it
  { F::is_leaf(e, l) } -> std::same_as<bool>;         // precondition: present
  { F::address(e, l) } -> std::same_as<std::uint64_t>;
  { F::attributes(e) } -> std::same_as<Attributes>;   // of a leaf
  { F::with(e, a) } -> std::same_as<Entry>;           // the leaf e with other attributes
  { F::leaf_allowed(l) } -> std::same_as<bool>;
  { F::kBreakBeforeMake } -> std::convertible_to<bool>;  // a live entry may not change size or frame directly
  { F::accessed(e) } -> std::same_as<Entry>;          // the leaf e as if the hardware had used it
  { F::stable(e) } -> std::same_as<Entry>;  // the leaf e without what the hardware changes by itself, and `ahead`
  { F::stable_read_only(e) } -> std::same_as<Entry>;  // the same of that leaf without write permission, quickly
  { F::publish() } -> std::same_as<void>;  // barrier between writing entries and the walker's seeing them
};

inline constexpr Entry kNone = 0;  // absent in every format

// A leaf taken from the hardware that still remembers its frame: what mprotect(PROT_NONE) leaves behind.
// Bit 0 is the valid bit of every format, and clear it leaves all other bits to software. The address
// bits are inverted, as Linux does it, so that a processor that speculates on non-present entries
// (L1 terminal fault) finds an address no memory has. A kept entry is never a table, and never kNone:
// addresses are below 2^48, so that inverted bits 48..51 are set.
inline constexpr Entry kValidBit = 1;
inline constexpr Entry kKeptInversion = 0x000f'ffff'ffff'f000;
constexpr Entry kept(Entry leaf) { return (leaf ^ kKeptInversion) & ~kValidBit; }
constexpr Entry restored(Entry kept_entry) { return (kept_entry ^ kKeptInversion) | kValidBit; }
// What stands in a slot while a leaf and a table change places there and the hardware may hold neither
// (break-before-make). Not kNone: whoever walks without a lock must not take it for room. No kept entry looks like it.
inline constexpr Entry kChanging = 1ull << 1;
// In the entry of a table that others may use as well: what is below has to be copied before it changes. Software's in
// every format, and no leaf has it.
inline constexpr Entry kSharedTable = 1ull << 58;
constexpr bool is_kept(Entry e) { return e != kNone && e != kChanging && (e & (kValidBit | kSharedTable)) == 0; }

}  // namespace ramet::arch
