// Aligned working memory of a call: reused by the next call on the same thread, so that small calls do not
// allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define BATCHNORM_POISONS 1
#include <sanitizer/asan_interface.h>
#endif

namespace batchnorm {

constexpr size_t kAlignment = 64;

/// Tells AddressSanitizer that memory must not, or may again be touched. Nothing without it.
inline void poison([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#if BATCHNORM_POISONS
  __asan_poison_memory_region(from, bytes);
#endif
}
inline void unpoison([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#if BATCHNORM_POISONS
  __asan_unpoison_memory_region(from, bytes);
#endif
}

/// Between arrays, so that AddressSanitizer sees who goes beyond his.
#if BATCHNORM_POISONS
constexpr size_t kGap = kAlignment;
#else
constexpr size_t kGap = 0;
#endif

constexpr size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

template <typename Byte>
Byte* align(Byte* pointer) {
  return pointer + (kAlignment - reinterpret_cast<uintptr_t>(pointer) % kAlignment) % kAlignment;
}

/// Takes from the thread's memory until it is destroyed. Calls do not nest on a thread.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { memory().release(); }

  /// Makes sure that later calls on this thread which take no more than the last one, or than so many bytes,
  /// find their memory there.
  static void keep(size_t least = 0) { memory().keep(least); }

  /// `count` values, 64-byte aligned and padded to a multiple of 64 bytes, not initialised.
  template <typename T>
  T* take(size_t count) {
    return reinterpret_cast<T*>(memory().take(round_up(count * sizeof(T), kAlignment)));
  }

 private:
  struct Block {
    std::unique_ptr<unsigned char[]> bytes;
    size_t size;
  };

  struct Memory {
    static constexpr size_t kKept = size_t{16} << 20;
    std::vector<Block> blocks;
    size_t used = 0;
    size_t first = size_t{64} << 10;

    unsigned char* take(size_t bytes) {
      const size_t size = bytes + kGap;
      if (blocks.empty() || blocks.back().size - used < size) {
        const size_t grown = blocks.empty() ? first : 2 * blocks.back().size;
        const size_t next = grown < size ? size : grown;
        blocks.push_back({std::unique_ptr<unsigned char[]>(new unsigned char[next + kAlignment]), next});
        used = 0;
      }
      unsigned char* taken = align(blocks.back().bytes.get()) + used;
      used += size;
      unpoison(taken, bytes);
      poison(taken + bytes, kGap);
      return taken;
    }

    void keep(size_t least) {
      const size_t size = first < least ? least : first;
      if (!blocks.empty() && blocks.back().size >= size) return;
      blocks.clear();
      blocks.push_back({std::unique_ptr<unsigned char[]>(new unsigned char[size + kAlignment]), size});
    }

    /// Keeps one block; where there were several, the next call gets one that holds as much as all of them.
    void release() {
      if (blocks.size() > 1) {
        size_t total = 0;
        for (const Block& block : blocks) total += block.size;
        first = total < kKept ? total : kKept;
        blocks.clear();
      }
      if (!blocks.empty() && blocks.back().size > kKept) blocks.clear();
      used = 0;
    }
  };

  static Memory& memory() {
    static thread_local Memory instance;
    return instance;
  }
};

}  // namespace batchnorm
