// The standard headers that nearly every unit reads; see ramet_precompile().
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>
