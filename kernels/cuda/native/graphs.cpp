#include <graphs.h>

#include <device_check.h>

namespace rwkv::device {
namespace {

void* begin() {
  static thread_local cudaStream_t stream = [] {
    cudaStream_t made = nullptr;  // to the end of the process
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return made;
  }();
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  return stream;
}

void* end(void* native, bool good) {
  cudaGraph_t graph = nullptr;
  const cudaError_t code = cudaStreamEndCapture(static_cast<cudaStream_t>(native), &graph);
  cudaGraphExec_t recorded = nullptr;
  if (good) {
    check(code, "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&recorded, graph, 0), "cudaGraphInstantiate");
  } else {
    cudaGetLastError();  // what went wrong has been said
  }
  if (graph != nullptr) check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  return recorded;
}

void run(const Stream& stream, void* recorded) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recorded),
                        static_cast<cudaStream_t>(stream.native)),
        "cudaGraphLaunch");
}

// A destructor's: a failure would be an earlier kernel's, which the next call reports too.
void release(void* recorded) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recorded)); }

}  // namespace

const Recording& graphs() {
  static constexpr Recording table{begin, end, run, release};
  return table;
}

}  // namespace rwkv::device
