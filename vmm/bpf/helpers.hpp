// The helpers that are eBPF functions themselves (helpers.bpf.c), as an object that was compiled with this library.
#pragma once

#include <cstddef>
#include <span>

namespace ramet::vmm::bpf {

std::span<const std::byte> helpers_object();

}  // namespace ramet::vmm::bpf
