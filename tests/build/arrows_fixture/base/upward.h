#pragma once
#include <string>
#include "base/other.h"
#include "models/model.h"
