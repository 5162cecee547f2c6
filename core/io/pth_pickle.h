// A pickle machine that can do nothing: its values are inert tags, its instructions those that
// torch.load(weights_only=True) knows, of protocol 2, its globals the few of a state dict.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rwkv {

// One value. Values refer to one another by index, so that no depth of nesting is a recursion.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,        // number
    kInt,         // number
    kFloat,       // its value is never needed
    kText,        // text
    kTuple,       // items
    kList,        // items
    kDict,        // items: key, value, key, value, ...; an OrderedDict too
    kGlobal,      // text: "module name"
    kCall,        // items: the global, the tuple of arguments; never called
    kPersistent,  // items: the persistent id
  };
  Kind kind = Kind::kNone;
  int64_t number = 0;
  std::string_view text;
  std::vector<uint32_t> items;
};

// "a dict", "an int", ... for messages.
std::string_view name_of(PickleValue::Kind);

struct Pickle {
  std::vector<PickleValue> values;
  uint32_t root = 0;

  const PickleValue& operator[](uint32_t index) const { return values[index]; }
};

// Texts of the result are views into `bytes`. Throws InputError beginning with `where` and naming
// the byte for anything that is not in the lists above, leaves the stack, or is above the limits
// (10 million instructions, 4 million values, 65536 bytes a text, 1000 open marks).
Pickle run_pickle(std::span<const std::byte> bytes, const std::string& where);

}  // namespace rwkv
