# moe_add_plugin(NAME sources... [LIBS target...])
#
# Builds one plugin library, NAME.so, that exports the plugin entry and nothing else and can be unloaded again.
# Hidden visibility alone is not enough: templates of the standard library are emitted as unique symbols, which pin a library
# after dlclose. So also a version script (local: *) and -fno-gnu-unique. It links moe::sdk and LIBS, nothing of the host's.
set(MOE_PLUGIN_VERSION_SCRIPT ${CMAKE_CURRENT_LIST_DIR}/plugin.map CACHE INTERNAL "")

function(moe_add_plugin name)
  cmake_parse_arguments(arg "" "" "LIBS" ${ARGN})
  add_library(${name} MODULE ${arg_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE moe::sdk ${arg_LIBS})
  target_compile_options(${name} PRIVATE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-fno-gnu-unique>
                                         $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<CXX_COMPILER_ID:GNU>>:-Xcompiler=-fno-gnu-unique>)
  target_link_options(${name} PRIVATE -Wl,--version-script=${MOE_PLUGIN_VERSION_SCRIPT} -Wl,--exclude-libs,ALL)
  set_target_properties(${name} PROPERTIES
    PREFIX "" C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    LINK_DEPENDS ${MOE_PLUGIN_VERSION_SCRIPT})
  if(PATCHBAY_PLUGIN_DIR)  # inside the Patchbay tree: where the program looks; elsewhere the author's own build folder
    set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/${PATCHBAY_PLUGIN_DIR})
    add_dependencies(runtime ${name})
    install(TARGETS ${name} LIBRARY DESTINATION ${PATCHBAY_PLUGIN_DIR})
  endif()
endfunction()

# moe_add_plugin_test(NAME [sources...] [CHECK argument...])
#
# Tests of the plugin NAME for ctest: NAME.conformance, what every plugin must do (`patchbay plugins check`, with further arguments), and, with
# sources, NAME.test, the author's own program (moe/sdk/testing.hpp).
macro(moe_add_plugin_test name)
  enable_testing()  # sets a variable, which a function would keep for itself
  moe_add_plugin_test_(${name} ${ARGN})
endmacro()

function(moe_add_plugin_test_ name)
  cmake_parse_arguments(arg "" "" "CHECK" ${ARGN})
  if(TARGET patchbay)
    set(program $<TARGET_FILE:patchbay>)
  else()
    find_program(MOE_PATCHBAY patchbay HINTS ${MOE_SDK_PREFIX}/bin)
    set(program ${MOE_PATCHBAY})
  endif()
  if(PATCHBAY_SANITIZE)
    # The kit preloads a library of its own, which sanitizers do not allow: see tests/conformance.
  elseif(program)
    add_test(NAME ${name}.conformance COMMAND ${program} plugins check $<TARGET_FILE:${name}> ${arg_CHECK})
  else()
    message(WARNING "patchbay: expected the program in PATH or CMAKE_PREFIX_PATH, got none: ${name}.conformance is left out")
  endif()
  if(arg_UNPARSED_ARGUMENTS)
    add_executable(${name}_test ${arg_UNPARSED_ARGUMENTS})
    target_link_libraries(${name}_test PRIVATE moe::sdk)
    add_test(NAME ${name}.test COMMAND ${name}_test)
  endif()
endfunction()

# moe_enable_cuda()
#
# The language CUDA for plugins with kernels of their own: finds nvcc where it usually is, and builds PTX that serves every chip from 8.0 on
# unless CMAKE_CUDA_ARCHITECTURES says otherwise. To be called before moe_add_plugin().
macro(moe_enable_cuda)
  if(NOT CMAKE_CUDA_COMPILER)
    find_program(MOE_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
    if(NOT MOE_NVCC)
      message(FATAL_ERROR "CUDA: expected nvcc in PATH, CUDA_PATH or /usr/local/cuda, got none")
    endif()
    set(CMAKE_CUDA_COMPILER ${MOE_NVCC})
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-virtual)
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc 13 has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
endmacro()
