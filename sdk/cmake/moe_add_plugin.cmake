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
  target_compile_options(${name} PRIVATE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-fno-gnu-unique>)
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
