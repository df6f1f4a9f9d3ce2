// simrun reference: every setting of a scenario file, as Markdown.
#pragma once

#include "cli/command.h"

namespace simrun {

int ReferenceCommand(Terminal terminal);

}  // namespace simrun
