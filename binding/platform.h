// What operating systems do each in their own way.
#pragma once

#include <cstddef>

namespace binding {

/// Asks for huge pages under memory that nobody has touched yet. Refused is as good as not asked.
void advise_huge_pages(void* memory, size_t bytes);

/// Keeps this library in memory: its threads outlive the last worker that loaded it. On Linux the linker's
/// flag nodelete says so.
void stay_loaded();

}  // namespace binding
