#include "tests/support/walled_memory.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace rwkv {
namespace {

const Stream kStream;

TEST(WalledMemory, IsZeroedAndGoesThroughCopy) {
  Buffer device(1000, walled_memory());
  std::vector<float> there(250, 3.0f), back(250, 1.0f);
  walled_memory().copy(kStream, reinterpret_cast<std::byte*>(back.data()), device.data(), 1000);
  EXPECT_EQ(back, std::vector<float>(250));
  walled_memory().copy(kStream, device.data(), reinterpret_cast<std::byte*>(there.data()), 1000);
  walled_memory().copy(kStream, reinterpret_cast<std::byte*>(back.data()), device.data(), 1000);
  EXPECT_EQ(back, there);
  walled_memory().zero(kStream, device.data(), 1000);
  walled_memory().copy(kStream, reinterpret_cast<std::byte*>(back.data()), device.data(), 1000);
  EXPECT_EQ(back, std::vector<float>(250));
}

TEST(WalledMemory, OpensForAKernel) {
  Buffer before(10, walled_memory());
  const OpenWalls open;
  Buffer within(10, walled_memory());
  before.data()[9] = std::byte{1};
  within.data()[9] = before.data()[9];
  EXPECT_EQ(within.data()[9], std::byte{1});
}

TEST(WalledMemory, KnowsItsOwn) {
  const int64_t bytes = walled_counts().live_bytes;
  {
    Buffer device(1000, walled_memory());
    EXPECT_TRUE(is_walled(device.data()));
    EXPECT_TRUE(is_walled(device.data() + 999));
    EXPECT_FALSE(is_walled(device.data() - 1));
    EXPECT_GE(walled_counts().live_bytes, bytes + 1000);
  }
  EXPECT_FALSE(is_walled(&bytes));
  EXPECT_EQ(walled_counts().live_bytes, bytes);
  set_walled_available(12345);
  EXPECT_EQ(walled_memory().available(), 12345);
  set_walled_available(-1);
}

TEST(WalledMemory, RefusesCopiesThatLeaveTheAllocation) {
  Buffer device(64, walled_memory());
  std::byte some[80] = {};
  EXPECT_THROW(walled_memory().copy(kStream, device.data(), some, 65), Error);
  EXPECT_THROW(walled_memory().zero(kStream, device.data() + 32, 33), Error);
}

TEST(WalledMemory, ServesManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 100; ++i) {
        Buffer device(4096 * (t + 1), walled_memory());
        const std::byte value{static_cast<unsigned char>(i)};
        walled_memory().copy(kStream, device.data() + 100, &value, 1);
        const OpenWalls open;
        EXPECT_EQ(device.data()[100], value);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(WalledMemoryDeathTest, EndsAHostThatReadsOrWrites) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  Buffer device(64, walled_memory());
  { const OpenWalls open; }
  EXPECT_DEATH(device.data()[0] = std::byte{1}, "");
  EXPECT_DEATH(std::exit(static_cast<int>(device.data()[0])), "");
}

}  // namespace
}  // namespace rwkv
