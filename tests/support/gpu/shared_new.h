#pragma once

namespace rwkv::test {

// From now on new gives memory that the GPU reaches at the same address. False: it cannot.
bool share_new();

}  // namespace rwkv::test
