#pragma once
#  include <yaml-cpp/yaml.h>
#include <boost/graph/adjacency_list.hpp>
