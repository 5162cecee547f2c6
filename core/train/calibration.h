// Measures what a forecast needs to know about this machine.
#pragma once

#include "core/train/forecast.h"
#include "core/train/job.h"

namespace rwkv {

// Runs the recipe's model over segments of the size that these ranks would have, on all ranks at
// once, and messages between ranks 0 and 1; takes seconds, trains nothing. Needs two ranks
// (InputError). Collective; all ranks get the same.
Calibration calibrate(const Recipe&, const Machine&, Communicator& ranks);

}  // namespace rwkv
