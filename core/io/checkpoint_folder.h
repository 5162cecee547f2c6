// Names in a folder of checkpoints; internal to core/io.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rwkv {

// The N of a path that ends in step-N; -1 when it ends otherwise.
int64_t step_named(const std::string& path);

// The N of all folders step-N in `folder`, rising. A `folder` that is not there holds none; IoError
// when it cannot be read.
std::vector<int64_t> steps_in(const std::string& folder);

std::string step_path(const std::string& folder, int64_t step);

}  // namespace rwkv
