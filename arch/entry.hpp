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
  bool accessed = true;    // set in advance, so that the hardware need not write the entry
  bool dirty = false;
  bool deferred_exec = false;  // software bit: the region allows execution, the entry still withholds it
  bool ahead = false;      // software bit: mapped by fault-around, not because the page was accessed
  bool operator==(const Attributes&) const = default;
};

// Readable is implied by present; a region without any permission has no present entries.
template <class F>
concept EntryFormat = requires(Entry e, std::uint64_t pa, Level l, Attributes a) {
  { F::leaf(pa, l, a) } -> std::same_as<Entry>;       // pa aligned to span_of(l)
  { F::table(pa) } -> std::same_as<Entry>;            // pa page-aligned
  { F::shared_table(pa) } -> std::same_as<Entry>;     // forbids writing below, see kSharedTable
  { F::kSharedHidden } -> std::convertible_to<bool>;  // it forbids reading as well: the format has no other way
  { F::present(e) } -> std::same_as<bool>;            // the hardware may use it
  { F::is_leaf(e, l) } -> std::same_as<bool>;         // precondition: present
  { F::address(e, l) } -> std::same_as<std::uint64_t>;
  { F::attributes(e) } -> std::same_as<Attributes>;   // of a leaf
  { F::with(e, a) } -> std::same_as<Entry>;           // the leaf e with other attributes
  { F::leaf_allowed(l) } -> std::same_as<bool>;
  { F::kBreakBeforeMake } -> std::convertible_to<bool>;  // a live entry may not change size or frame directly
  { F::accessed(e) } -> std::same_as<Entry>;          // the leaf e as if the hardware had used it
  { F::stable(e) } -> std::same_as<Entry>;  // the leaf e without the bits that the hardware sets, and `ahead`
  { F::stable_read_only(e) } -> std::same_as<Entry>;  // stable() of the leaf e without write permission
  { F::publish() } -> std::same_as<void>;  // barrier: hardware walkers see the entries written before
};

inline constexpr Entry kNone = 0;  // absent in every format

// A kept entry: a leaf that the hardware does not see and that remembers its frame, as after mprotect(PROT_NONE).
// Bit 0 is the valid bit of every format; if it is clear, all other bits are software's. The address bits are
// inverted, as in Linux, so that a processor that speculates on non-present entries (L1 terminal fault) finds an
// address without memory. A kept entry is never a table, and never kNone: addresses are below 2^48, so that the
// inverted bits 48..51 are set.
inline constexpr Entry kValidBit = 1;
inline constexpr Entry kKeptInversion = 0x000f'ffff'ffff'f000;
constexpr Entry kept(Entry leaf) { return (leaf ^ kKeptInversion) & ~kValidBit; }
constexpr Entry restored(Entry kept_entry) { return (kept_entry ^ kKeptInversion) | kValidBit; }
// The entry of a slot while its leaf or table is being replaced and the hardware must see neither (break-before-make).
// Not kNone, as a walk without a lock must not take the slot for empty. Different from every kept entry.
inline constexpr Entry kChanging = 1ull << 1;
// Set in the entry of a table that other address spaces may use: the table is copied before anything below it changes.
// A software bit in every format, never set in a leaf.
inline constexpr Entry kSharedTable = 1ull << 58;
constexpr bool is_kept(Entry e) { return e != kNone && e != kChanging && (e & (kValidBit | kSharedTable)) == 0; }

}  // namespace ramet::arch
