# moe_add_schema(FOLDER)
#
# moe::schema: the wire's messages (FOLDER/patchbay.proto), for the host, transport plugins and clients. Lite on purpose: two copies of full
# generated code in one process, the host's and a plugin's, abort when the second is loaded; lite ones do not know of each other.
# Needs protoc and libprotobuf (Debian: protobuf-compiler, libprotobuf-dev).
function(moe_add_schema folder)
  find_package(Protobuf REQUIRED)
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/moe-schema)
  file(MAKE_DIRECTORY ${generated})
  add_custom_command(OUTPUT ${generated}/patchbay.pb.cc ${generated}/patchbay.pb.h
    COMMAND protobuf::protoc --proto_path ${folder} --cpp_out ${generated} patchbay.proto
    DEPENDS ${folder}/patchbay.proto VERBATIM)
  add_library(moe_schema STATIC ${generated}/patchbay.pb.cc ${generated}/patchbay.pb.h)
  add_library(moe::schema ALIAS moe_schema)
  target_link_libraries(moe_schema PUBLIC protobuf::libprotobuf-lite)
  target_include_directories(moe_schema SYSTEM PUBLIC ${generated})
  set_target_properties(moe_schema PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  # Generated code is not ours to warn about; and nothing in it may pin a plugin after dlclose.
  target_compile_options(moe_schema PRIVATE -w $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
endfunction()

# moe_add_client()
#
# moe::client: a client of a server in C++ (moe/sdk/client.hpp). Needs moe::schema and libzmq with cppzmq (Debian: libzmq3-dev, cppzmq-dev).
function(moe_add_client)
  find_package(PkgConfig REQUIRED)
  pkg_check_modules(MOE_ZMQ REQUIRED IMPORTED_TARGET GLOBAL libzmq)
  add_library(moe_client INTERFACE)
  add_library(moe::client ALIAS moe_client)
  target_link_libraries(moe_client INTERFACE moe::sdk moe::schema PkgConfig::MOE_ZMQ)
endfunction()
