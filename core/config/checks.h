// What must hold between keys.
#pragma once

#include "core/config/given.h"
#include "core/config/load.h"
#include "core/config/recipe.h"

namespace rwkv {

// Keys that training cannot do without.
void check_required(const GivenKeys&);

// Sets train.steps from train.tokens.
void settle_steps(const GivenKeys&, Recipe&);

// Features that do not exist yet, and conflicts. Throws InputError, one line naming both keys, at
// the key that the recipe or an override gives. What depends on the number of ranks or on the
// content of files is checked elsewhere.
void check_recipe(const GivenKeys&, const Recipe&, RecipeUse);

}  // namespace rwkv
