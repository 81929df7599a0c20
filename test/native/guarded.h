// Memory that nobody overruns unseen: pages without access before and behind it end the process at once, with
// any compiler and sanitizer. (GCC's AddressSanitizer looks at neither masked nor streaming instructions.)
// What lies between a page's end and the values holds canaries, poisoned for AddressSanitizer.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "scratch.h"

/// The place of values that end where a page without access begins.
constexpr size_t kAtEnd = ~size_t{0};

template <typename T>
class Guarded {
 public:
  /// `size` values, `place` values behind the page before them, or kAtEnd.
  Guarded(size_t size, size_t place)
      : size_(size),
        length_(batchnorm::round_up(bytes() + kMargin, page())),
        pages_(take(length_)),
        values_(reinterpret_cast<T*>(pages_ + (place == kAtEnd ? length_ - bytes() : place * sizeof(T)))) {
    if (place != kAtEnd && kMargin / 2 < place * sizeof(T)) std::abort();
    std::memset(pages_, kCanary, length_);
    batchnorm::poison(pages_, before());
    batchnorm::poison(pages_ + before() + bytes(), behind());
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    batchnorm::unpoison(pages_, length_);
    if (length_ <= kKept)
      spare()[length_].push_back(pages_);
    else
      give_back(pages_, length_);
  }

  T* data() { return values_; }
  const T* data() const { return values_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

  void fill(const std::vector<T>& values) {
    if (size_ > 0) std::memcpy(values_, values.data(), bytes());
  }
  bool holds(const std::vector<T>& values) const {
    return size_ == 0 || std::memcmp(values_, values.data(), bytes()) == 0;
  }
  /// Whether nothing but the values was written. Once: the canaries are no longer poisoned then.
  bool intact() const {
    batchnorm::unpoison(pages_, length_);
    const unsigned char* const end = pages_ + before() + bytes();
    for (const unsigned char* at = pages_; at < pages_ + before(); at++)
      if (*at != kCanary) return false;
    for (const unsigned char* at = end; at < end + behind(); at++)
      if (*at != kCanary) return false;
    return true;
  }

 private:
  static constexpr unsigned char kCanary = 0xa5;
  static constexpr size_t kMargin = 1024;
  static constexpr size_t kKept = size_t{64} << 10;

  static size_t page() {
    static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return size;
  }
  /// By length. Kept: asking the system each time would take most of the time of a small case.
  static std::map<size_t, std::vector<unsigned char*>>& spare() {
    static thread_local struct Spare {
      std::map<size_t, std::vector<unsigned char*>> by_length;
      ~Spare() {
        for (const auto& [length, all] : by_length)
          for (unsigned char* pages : all) give_back(pages, length);
      }
    } instance;
    return instance.by_length;
  }
  static void give_back(unsigned char* pages, size_t length) { munmap(pages - page(), length + 2 * page()); }
  static unsigned char* take(size_t length) {
    auto& all = spare()[length];
    if (!all.empty()) {
      unsigned char* const pages = all.back();
      all.pop_back();
      return pages;
    }
    // An emulator of AVX2 reads whole vectors for masked loads (scripts/test-emulated.ts).
    static const int guard = std::getenv("NATIVE_TEST_READABLE_GUARDS") ? PROT_READ : PROT_NONE;
    void* const mapped = mmap(nullptr, length + 2 * page(), guard, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    unsigned char* const pages = static_cast<unsigned char*>(mapped) + page();
    if (mprotect(pages, length, PROT_READ | PROT_WRITE) != 0) std::abort();
    return pages;
  }

  size_t before() const {
    return static_cast<size_t>(reinterpret_cast<const unsigned char*>(values_) - pages_);
  }
  size_t behind() const { return length_ - before() - bytes(); }

  size_t size_;
  size_t length_;
  unsigned char* pages_;
  T* values_;
};
