// What ModelSpace expects of a new mapping. Included by tree_space.hpp alone.
#pragma once

#include "tests/guest-mm/tree_space.hpp"

namespace ramet::mm::test {

inline void ModelSpace::map(unsigned start, unsigned count, const std::shared_ptr<ModelFile>& file) {
  Page page;
  page.mapped = true, page.prot = pick_prot(), page.file = file;
  if (file) {
    page.shared = file->shared;
    page.in_file = choices_.below(ModelFile::kPages);
    if (page.shared && choices_.one_in(4)) page.max_prot = kReadExec;
  }
  const bool fixed = !choices_.one_in(4), keep = choices_.one_in(8), populate = choices_.one_in(4);
  const auto done = world.as->map({.address = at(start),
                                   .length = count * kPageSize,
                                   .prot = page.prot,
                                   .fixed = fixed,
                                   .no_replace = keep,
                                   .shared = page.shared,
                                   .populate = populate,
                                   .backing = file ? file->file : nullptr,
                                   .offset = page.in_file * kPageSize,
                                   .max_prot = page.max_prot});
  const auto put = [&](unsigned first) {
    for (unsigned i = 0; i < count; ++i, ++page.in_file) model[first + i] = page;
  };
  if (!has(page.max_prot, page.prot)) {
    ASSERT_EQ(done, fail(Error::NotPermitted));
  } else if (!fixed) {
    unsigned longest = 0, hole = 0;
    for (const Page& p : model) longest = std::max(longest, hole = p.mapped ? 0 : hole + 1);
    if (!done) {
      ASSERT_EQ(done, fail(Error::NoMemory));
      ASSERT_TRUE(tight_ || longest < count);
      return;
    }
    ASSERT_GE(*done, kTreeBase);
    const unsigned first = static_cast<unsigned>((*done - kTreeBase) >> kPageShift);
    ASSERT_LE(first + count, kTreePages);
    ASSERT_FALSE(any(first, count, mapped)) << "what was there is replaced";
    put(first);
  } else if (keep && any(start, count, mapped)) {
    ASSERT_EQ(done, fail(Error::Exists));
  } else if (went(done, {})) {
    ASSERT_EQ(*done, at(start));
    put(start);
  } else {
    all_or_none_gone(start, count);
  }
}

}  // namespace ramet::mm::test
