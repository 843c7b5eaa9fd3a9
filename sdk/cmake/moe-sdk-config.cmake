get_filename_component(MOE_SDK_PREFIX ${CMAKE_CURRENT_LIST_DIR}/../../.. ABSOLUTE)
include(${CMAKE_CURRENT_LIST_DIR}/moe-sdk-targets.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/moe_add_plugin.cmake)
