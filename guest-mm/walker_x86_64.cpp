// The walker for x86-64's entries. A unit for each architecture, so that they are compiled in parallel.
#include "arch/x86_64/entry.hpp"
#include "guest-mm/address_space.hpp"
#include "guest-mm/walker_books.hpp"
#include "guest-mm/walker_look.hpp"
#include "guest-mm/walker_publish.hpp"
#include "guest-mm/walker_shape.hpp"
#include "guest-mm/walker_share.hpp"

namespace ramet::mm {

template class Walker<arch::x86_64::Stage1>;

}  // namespace ramet::mm
