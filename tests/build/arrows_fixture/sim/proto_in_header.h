#include "proto/report.pb.h"
#include <google/protobuf/message.h>
