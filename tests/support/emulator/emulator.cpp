#include <ucontext.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "tests/support/emulator/device_backend.h"
#include "tests/support/emulator/thread_sanitizer.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace rwkv::device {
namespace {

constexpr int kWarpSize = 32, kTeamSize = 128, kMostWarps = 32;
constexpr ptrdiff_t kCopyBytes = 16;
constexpr size_t kStack = size_t{1} << 17;

enum class Waits : uint8_t { kNothing, kBlock, kTeam, kWarp };

// A place to come back to. A fiber is entered through its ucontext; after that the compiler's own
// setjmp and longjmp do, which make no system calls and of which no sanitizer takes notice.
struct Place {
  ucontext_t context{};
  void* jump[5] = {};
  bool entered = true;
  const void* bottom = nullptr;  // of its stack
  size_t bytes = 0;
  void* tsan = nullptr;
};

struct Copy {
  std::byte* to;
  const std::byte* from;  // nullptr: zeros
};

struct Fiber : Place {
  std::vector<char> stack = std::vector<char>(kStack);
  Waits waits = Waits::kNothing;
  bool done = false;
  size_t meetings = 0;
  size_t waited[4] = {};                 // how often, for each Waits
  std::deque<std::vector<Copy>> copies;  // groups on their way; the last one still grows
};

// One block at a time, on one thread of the process.
class Machine {
 public:
  void run(const LaunchShape& shape, const std::function<void()>& thread) {
    shape_ = shape;
    body_ = &thread;
    while (fibers_.size() < static_cast<size_t>(shape.threads)) {
      fibers_.push_back(std::make_unique<Fiber>());
    }
    shared_.resize(static_cast<size_t>(shape.shared_bytes) + 16);
    for (auto& shown : shown_) shown.resize(static_cast<size_t>(shape.threads));
    order_.resize(static_cast<size_t>(shape.threads));
    std::iota(order_.begin(), order_.end(), 0);
    for (block_ = 0; block_ < shape.blocks; ++block_) run_block();
    body_ = nullptr;
  }

  // orders: what a thread did before is there for others after it.
  void wait(Waits why, bool orders = true) {
    Fiber& fiber = *fibers_[static_cast<size_t>(thread_)];
    // Two in turn: who comes to the next one is not who leaves this one.
    void* const barrier = barrier_of(why, fiber.waited[static_cast<size_t>(why)]++ % 2);
    if (orders) tsan::arrive(barrier);
    fiber.waits = why;
    swap(fiber, scheduler_);
    if (orders) tsan::leave(barrier);
  }
  // Two boards in turn: who comes to the next meeting does not wipe what others still read.
  const Shown* meet(const Shown& mine, bool orders) {
    Fiber& fiber = *fibers_[static_cast<size_t>(thread_)];
    std::vector<Shown>& board = shown_[fiber.meetings++ % 2];
    board[static_cast<size_t>(thread_)] = mine;
    wait(Waits::kWarp, orders);
    return board.data() + thread_ / kWarpSize * kWarpSize;
  }
  Fiber& fiber() { return *fibers_[static_cast<size_t>(thread_)]; }
  void reseed(uint64_t seed) { random_.seed(seed); }

  int64_t block() const { return block_; }
  int thread() const { return thread_; }
  const LaunchShape& shape() const { return shape_; }
  std::byte* shared() {
    const auto at = reinterpret_cast<uintptr_t>(shared_.data());
    return shared_.data() + (16 - at % 16) % 16;
  }

 private:
  // The address sanitizer is told of every change of stacks. for_good: `from` has ended, and what
  // the sanitizer keeps for it can go.
  [[gnu::noinline]] static void swap(Place& from, Place& to,
                                     [[maybe_unused]] bool for_good = false) {
#ifdef __SANITIZE_ADDRESS__
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack, to.bottom, to.bytes);
    if (__builtin_setjmp(from.jump) == 0) go(to);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
    if (__builtin_setjmp(from.jump) == 0) go(to);
#endif
  }
  // A function of its own: setjmp and longjmp must not be in one. Nobody comes back to its frame,
  // so it must not be marked.
  [[noreturn, gnu::noinline, gnu::no_sanitize_address]] static void go(Place& to) {
    // What begins comes after the launch, what the machine does next after what a fiber did.
    tsan::switch_to(to.tsan, !to.entered || &to == &machine_scheduler());
    if (to.entered) __builtin_longjmp(to.jump, 1);
    to.entered = true;
    setcontext(&to.context);
    throw Error("emulator: setcontext failed");
  }
  static void enter();
  static Place& machine_scheduler();

  void* barrier_of(Waits why, size_t turn) {
    const int group = why == Waits::kWarp   ? thread_ / kWarpSize
                      : why == Waits::kTeam ? thread_ / kTeamSize
                                            : 0;
    return &barriers_[turn][static_cast<size_t>(why)][static_cast<size_t>(group)];
  }

  void run_block() {
    // What a block finds in its memory is nothing that it may count on.
    std::fill(shared_.begin(), shared_.end(), std::byte{0xff});
    held_ = 0;
    rounds_left_ = 0;
    scheduler_.tsan = tsan::current();
    for (int i = 0; i < shape_.threads; ++i) prepare(*fibers_[static_cast<size_t>(i)]);
    while (std::any_of(fibers_.begin(), fibers_.begin() + shape_.threads,
                       [](const auto& fiber) { return !fiber->done; })) {
      std::shuffle(order_.begin(), order_.end(), random_);
      hold_some_warps();
      bool moved = false;
      for (const int i : order_) moved = (!held(i) && step(i)) || moved;
      moved = release() || moved;
      if (!moved && held_ == 0) {
        throw Error("emulator: threads of a block wait for others that never come");
      }
      if (!moved) held_ = 0;
    }
  }

  // For some rounds some warps stand still, so that others run ahead as far as barriers let them:
  // warps that go in step would not show that one is missing.
  void hold_some_warps() {
    if (shape_.threads <= kWarpSize || --rounds_left_ > 0) return;
    constexpr uint64_t kMostRounds = 256;
    rounds_left_ = static_cast<int>(random_() % kMostRounds) + 1;
    held_ = random_();
  }
  bool held(int i) const { return (held_ >> (i / kWarpSize) & 1) != 0; }

  void prepare(Fiber& fiber) {
    fiber.done = false;
    fiber.waits = Waits::kNothing;
    fiber.meetings = 0;
    fiber.copies.assign(1, {});
    std::fill(std::begin(fiber.waited), std::end(fiber.waited), size_t{0});
    if (fiber.tsan == nullptr) fiber.tsan = tsan::create();
    if (getcontext(&fiber.context) != 0) throw Error("emulator: getcontext failed");
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;  // enter() never returns
    fiber.entered = false;
    fiber.bottom = fiber.stack.data();
    fiber.bytes = fiber.stack.size();
    makecontext(&fiber.context, &Machine::enter, 0);
  }

  bool step(int i) {
    Fiber& fiber = *fibers_[static_cast<size_t>(i)];
    if (fiber.done || fiber.waits != Waits::kNothing) return false;
    thread_ = i;
    swap(scheduler_, fiber);
    return true;
  }

  // Lets go on who has met: all threads or a team's at a barrier, a warp at a shuffle. An ended
  // thread is missed at both.
  bool release() {
    bool any = release_range(0, shape_.threads, Waits::kBlock);
    for (int team = 0; team + kTeamSize <= shape_.threads; team += kTeamSize) {
      any = release_range(team, team + kTeamSize, Waits::kTeam) || any;
    }
    for (int warp = 0; warp < shape_.threads; warp += kWarpSize) {
      any = release_range(warp, std::min(warp + kWarpSize, shape_.threads), Waits::kWarp) || any;
    }
    return any;
  }
  bool release_range(int begin, int end, Waits why) {
    for (int i = begin; i < end; ++i) {
      const Fiber& fiber = *fibers_[static_cast<size_t>(i)];
      if (fiber.done || fiber.waits != why) return false;
    }
    for (int i = begin; i < end; ++i) fibers_[static_cast<size_t>(i)]->waits = Waits::kNothing;
    return true;
  }

  LaunchShape shape_;
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<std::byte> shared_;
  std::array<std::vector<Shown>, 2> shown_;
  std::vector<int> order_;
  std::mt19937_64 random_{1};
  char barriers_[2][4][kMostWarps] = {};  // by turn, Waits and group of threads
  uint64_t held_ = 0;                     // a bit a warp
  int rounds_left_ = 0;
  Place scheduler_;
  int64_t block_ = 0;
  int thread_ = 0;
};

// A machine a thread of the process: ranks that are threads have each their own.
Machine& machine() {
  thread_local Machine instance;
  return instance;
}

Place& Machine::machine_scheduler() { return machine().scheduler_; }

void Machine::enter() {
  Machine& self = machine();
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &self.scheduler_.bottom, &self.scheduler_.bytes);
#endif
  (*self.body_)();
  Fiber& fiber = *self.fibers_[static_cast<size_t>(self.thread_)];
  fiber.done = true;
  swap(fiber, self.scheduler_, true);
}

}  // namespace

int64_t block_index() { return machine().block(); }
int64_t block_count() { return machine().shape().blocks; }
int thread_index() { return machine().thread(); }
int thread_count() { return machine().shape().threads; }
void sync_block() { machine().wait(Waits::kBlock); }
void sync_team(int team) {
  if (thread_index() / kTeamSize != team) throw Error("emulator: another team's barrier");
  machine().wait(Waits::kTeam);
}
std::byte* shared_memory() { return machine().shared(); }
int64_t room(const Stream&) { return device_size().room; }
std::byte* scratch(const Stream& stream, int64_t bytes) {
  if (bytes > room(stream)) throw Error("emulator: an op wants more scratch than there is");
  thread_local std::vector<std::byte> memory;
  memory.assign(static_cast<size_t>(bytes), std::byte{0xff});
  return memory.data();
}
void run_grid(const LaunchShape& shape, const std::function<void()>& thread) {
  if (shape.blocks > 0) machine().run(shape, thread);
}
DeviceSize& device_size() {
  thread_local DeviceSize size;
  return size;
}
int64_t multiprocessors() { return device_size().multiprocessors; }
int64_t block_shared_bytes() { return device_size().block_shared_bytes; }
void shuffle_threads(uint64_t seed) { machine().reseed(seed); }

const Shown* meet(const Shown& mine, bool orders) { return machine().meet(mine, orders); }

void copy_async(std::byte* to, const std::byte* from, bool there) {
  std::fill(to, to + kCopyBytes, std::byte{0xff});
  tsan::writes16(to);
  machine().fiber().copies.back().push_back({to, there ? from : nullptr});
}
void end_copy_group() { machine().fiber().copies.emplace_back(); }
void wait_for_copies(size_t newer) {
  auto& groups = machine().fiber().copies;
  for (; groups.size() > newer + 1; groups.pop_front()) {
    for (const Copy& copy : groups.front()) {
      tsan::writes16(copy.to);
      if (copy.from != nullptr) tsan::reads16(copy.from);
      copy.from == nullptr ? std::fill(copy.to, copy.to + kCopyBytes, std::byte{0})
                           : void(std::copy(copy.from, copy.from + kCopyBytes, copy.to));
    }
  }
}

}  // namespace rwkv::device
