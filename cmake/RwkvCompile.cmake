# How a layer of the house is compiled. Each layer is one static library, named rwkv_<layer>; what it
# links is what it may include.

add_library(rwkv_options INTERFACE)
target_include_directories(rwkv_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(rwkv_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
  -Wno-sign-conversion -Wnon-virtual-dtor -Woverloaded-virtual -Wno-unknown-pragmas)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlaps in std::string's own concatenation (its bug 105651).
  target_compile_options(rwkv_options INTERFACE -Wno-restrict)
endif()
if(RWKV_WERROR)
  target_compile_options(rwkv_options INTERFACE -Werror)
endif()
if(RWKV_SANITIZE)
  target_compile_options(rwkv_options INTERFACE -fsanitize=${RWKV_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(rwkv_options INTERFACE -fsanitize=${RWKV_SANITIZE})
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# rwkv_layer(NAME FOLDER DEPENDENCY...): all .cpp files directly in FOLDER.
function(rwkv_layer name folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cpp)
  add_library(rwkv_${name} STATIC ${sources})
  target_link_libraries(rwkv_${name} PUBLIC rwkv_options ${ARGN})
endfunction()
