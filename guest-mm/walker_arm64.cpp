// The walker for arm64's entries of stage 1 and stage 2.
#include "arch/arm64/entry.hpp"
#include "guest-mm/address_space.hpp"
#include "guest-mm/walker_books.hpp"
#include "guest-mm/walker_look.hpp"
#include "guest-mm/walker_publish.hpp"
#include "guest-mm/walker_shape.hpp"
#include "guest-mm/walker_share.hpp"

namespace ramet::mm {

template class Walker<arch::arm64::Stage1>;
template class Walker<arch::arm64::Stage2>;

}  // namespace ramet::mm
