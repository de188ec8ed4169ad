#include "arena.h"

#include <sys/mman.h>

#include <new>

namespace vivace {

namespace {

constexpr size_t HUGE_PAGE = size_t{2} << 20;
constexpr size_t CHUNK = size_t{64} << 20;
constexpr size_t ALIGNMENT = 64;

constexpr size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace

Mapping::Mapping(size_t num_bytes) : num_bytes_(num_bytes) {
  if (num_bytes > SIZE_MAX / 2) throw std::bad_alloc();
  mapped_bytes_ = round_up(num_bytes < 1 ? 1 : num_bytes, HUGE_PAGE) + HUGE_PAGE;
  mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped_ == MAP_FAILED) throw std::bad_alloc();
  data_ = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uintptr_t>(mapped_), HUGE_PAGE));
#if defined(MADV_HUGEPAGE)
  // Advice only: where huge pages are off, the memory works and is slower.
  if (num_bytes >= HUGE_PAGE) madvise(data_, round_up(num_bytes, HUGE_PAGE), MADV_HUGEPAGE);
#endif
}

Mapping::~Mapping() { munmap(mapped_, mapped_bytes_); }

Allocation Arena::allocate(size_t num_bytes) {
  const std::lock_guard lock(mutex_);
  if (num_bytes > SIZE_MAX / 2) throw std::bad_alloc();
  const size_t needed = round_up(num_bytes, ALIGNMENT);
  if (needed > CHUNK / 2) {
    auto own = std::make_shared<Mapping>(needed);
    return {own, own->data()};
  }
  if (!current_ || used_ + needed > current_->num_bytes()) {
    current_ = std::make_shared<Mapping>(CHUNK);
    used_ = 0;
  }
  Allocation allocation{current_, current_->data() + used_};
  used_ += needed;
  return allocation;
}

}  // namespace vivace
