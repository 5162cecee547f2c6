// One value of one key: from a YAML node, into and out of a Recipe, to text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/config/fields.h"
#include "core/config/yaml_tree.h"

namespace rwkv {

// Stores the node's value in `out`. Returns what is wrong with it ("expected ..., got ..."); empty
// when nothing is. Paths are left as written.
std::string parse_value(const Field&, const YamlNode&, Value& out);

// The value of `fallback`; a zero or empty value when the key is required.
Value default_value(const Field&);

// Fields without a place: get gives the default, set does nothing. get writes nothing; it takes
// what the table's accessors take.
Value get_value(const Field&, Recipe&);
void set_value(const Field&, const Value&, Recipe&);

// The value as YAML in one line; default_value() gives the word that stands for 0 or "".
std::string value_text(const Field&, const Value&);

// What a value may be, in words: "auto or an integer >= 1".
std::string describe_values(const Field&);

// Empty when the value's feature exists, else "not yet: only ... is built so far".
std::string describe_missing(const Field&, const Value&);

// Length of the part of an alternative before PATH ("PATH": 0, "world:PATH": 6); npos: no path.
size_t path_offset(const Field&, std::string_view text);

}  // namespace rwkv
