// What a planted fault throws across the boundary.
#include <stdexcept>

extern "C" [[noreturn]] void throw_something() { throw std::runtime_error("thrown in route"); }
