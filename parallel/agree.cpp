#include "parallel/agree.h"

namespace rwkv {

void agree(Communicator& comm, const std::function<void()>& work) {
  std::string message;
  int64_t code = 0;
  try {
    work();
  } catch (const Error& error) {
    message = error.what();
    code = static_cast<int64_t>(error.exit_code());
  } catch (const std::exception& error) {
    message = error.what();
    code = static_cast<int64_t>(ExitCode::kFatal);
  }
  const int64_t first = comm.min(code != 0 ? comm.rank() : comm.size());
  if (first == comm.size()) return;
  const int root = static_cast<int>(first);
  message = comm.broadcast(message, root);
  code = std::stoll(comm.broadcast(std::to_string(code), root));
  throw AgreedError(message, static_cast<ExitCode>(code));
}

int64_t on_first(Communicator& world, int active,
                 const std::function<int64_t(Communicator&)>& work) {
  return on_some(world, world.rank() < active, work);
}

int64_t on_some(Communicator& world, bool works,
                const std::function<int64_t(Communicator&)>& work) {
  const auto ranks = world.split(works ? 0 : -1, world.rank());
  std::string message;
  int64_t result = 0;
  if (ranks != nullptr) {
    try {
      result = work(*ranks);
    } catch (const AgreedError& error) {
      message = error.what();
      result = static_cast<int64_t>(error.exit_code());
    }
  }
  message = world.broadcast(message, 0);
  result = std::stoll(world.broadcast(std::to_string(result), 0));
  if (!message.empty()) throw AgreedError(message, static_cast<ExitCode>(result));
  return result;
}

void on_root(Communicator& comm, const std::function<void()>& work) {
  agree(comm, [&] {
    if (comm.rank() == 0) work();
  });
}

}  // namespace rwkv
