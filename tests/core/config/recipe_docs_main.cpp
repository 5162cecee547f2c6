// Writes docs/recipe.md and docs/recipe.schema.json from the field table. After a change of a row:
//   cmake --build build/release --target recipe_docs && build/release/tests/recipe_docs
#include <string>

#include "core/base/posix_file.h"
#include "core/config/load.h"

int main() {
  const std::string docs = std::string(RWKV_SOURCE_DIR) + "/docs/";
  rwkv::replace_file(docs + "recipe.md", rwkv::recipe_markdown());
  rwkv::replace_file(docs + "recipe.schema.json", rwkv::recipe_json_schema());
}
