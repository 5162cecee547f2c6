// Memory is planned: a step takes nothing from the heap. Counts calls of operator new in this
// program.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/core/train/train_test_support.h"

namespace {

std::atomic<long>& allocations() {
  static std::atomic<long> count = 0;
  return count;
}

void* counted(size_t bytes, size_t alignment) {
  ++allocations();
  const size_t whole = (bytes + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, whole == 0 ? alignment : whole);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

}  // namespace

void* operator new(size_t bytes) { return counted(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace rwkv {
namespace {

using namespace test;

// Allocations of two steps after two to warm up.
long allocations_of_steps(const Recipe& recipe) {
  const auto self = make_self();
  Trainer trainer(recipe, one_thread(recipe), *self);
  StepRow row;
  for (int64_t step = 0; step < 2; ++step) trainer.train_step(step, row);
  const long before = allocations();
  for (int64_t step = 2; step < 4; ++step) trainer.train_step(step, row);
  const long after = allocations();
  EXPECT_GT(row.loss, 0);
  return after - before;
}

TEST(Allocation, IsCounted) {
  const long before = allocations();
  delete new int(3);
  const std::vector<double> some(17);
  EXPECT_EQ(allocations() - before, 2);
}

// Reference kernels, so that no library allocates.
TEST(Allocation, AStepTakesNothingFromTheHeap) {
  EXPECT_EQ(allocations_of_steps(small_recipe()), 0);
  EXPECT_EQ(allocations_of_steps(small_recipe({"train.micro_batch=2"})), 0);
  EXPECT_EQ(allocations_of_steps(small_recipe({"train.recompute=block"})), 0);
  EXPECT_EQ(allocations_of_steps(small_recipe({"data.source=skills", "train.context=64"})), 0);
}

}  // namespace
}  // namespace rwkv
