#include "core/config/fields.h"

#include <span>
#include <vector>

#include "core/config/field_parts.h"

namespace rwkv {

std::span<const Field> recipe_fields() {
  static const std::vector<Field> kFields = [] {
    std::vector<Field> all;
    for (const auto part : {fields::model_and_data(), fields::training(), fields::machine()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return kFields;
}

}  // namespace rwkv
