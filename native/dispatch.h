// Which kernel tables this CPU can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace batchnorm {

/// The tables this CPU and its operating system can run, best first; `generic` is always the last.
const std::vector<const KernelTable*>& kernel_tables();

/// The table of that name, or nullptr if this CPU cannot run it.
const KernelTable* find_kernel_table(const std::string& name);

}  // namespace batchnorm
