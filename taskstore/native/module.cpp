// The module of one level: a submodule for each file of loops/, by its name.
#include "arrays.hpp"
#include "files.hpp" // FILES(each): each(NAME) for loops/NAME.cpp; CMake writes it

#define DECLARE(name) void add_##name(nb::module_ &m);
FILES(DECLARE)

#define ADD(name)                                         \
    {                                                     \
        nb::module_ part = parent.def_submodule(#name);   \
        add_##name(part);                                 \
    }
NB_MODULE(LOOPS_MODULE, parent) { FILES(ADD) }
