#!/usr/bin/env bash
# A one-node OpenSearch without Docker, put together from the jars that its makers publish on Maven Central.
#
#   up.sh assemble CACHE        put the server together below CACHE, once; prints its folder
#   up.sh secured CACHE         the same with the security plugin, in the newest version that Central has it for
#   up.sh run HOME NODE HEAP    become the server (exec): HOME from `assemble`, NODE with config/opensearch.yml,
#                               HEAP as java spells it (512m)
#
# Needs mvn and a JDK from 21 on: the newest below /usr/lib/jvm and /opt, or the one in JAVA_HOME.
# The caller holds a lock around `assemble`; tests/services/opensearch.py is that caller.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
least_java=21
layout=1 # raise it when the layout below changes, so that no cached server of the old layout is used

fail() { echo "opensearch/up.sh: $*" >&2; exit 1; }

# What the pom says: property NAME.
property() { sed -n "s:.*<$1>\(.*\)</$1>.*:\1:p" "$here/pom.xml"; }

java_home() {
  local candidate release
  for candidate in "${JAVA_HOME:-}" $(printf '%s\n' /usr/lib/jvm/* /opt/* | sort -rV); do
    [ -x "$candidate/bin/java" ] || continue
    release=$("$candidate/bin/java" -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
    if [ "${release%%.*}" -ge $least_java ]; then echo "$candidate"; return; fi
  done
  fail "no JDK from $least_java on: apt-get install openjdk-$least_java-jdk-headless, or set JAVA_HOME"
}

# Central falters now and then; a retry picks up where the last try stopped.
fetch() {
  local log=$building/mvn.log try
  for try in 2 5 0; do
    if mvn -B -ntp -q -f "$here/pom.xml" "$@" -Dopensearch.version="$version" -Dlog4j.version="$log4j" >"$log" 2>&1; then return; fi
    sleep $try
  done
  cat "$log" >&2
  fail "mvn could not fetch the jars"
}

# module NAME CLASS GRANTS JAR-PATTERN...: a module is a folder with its jars and two small files beside them.
# EXTENDS, if set, names the module whose extension points it uses.
module() {
  local name=$1 class=$2 grants=$3 folder=$building/modules/$1 pattern
  shift 3
  mkdir -p "$folder"
  for pattern in "$@"; do
    # shellcheck disable=SC2086
    mv $building/lib/$pattern "$folder/" 2>/dev/null || fail "no jar like $pattern for the module $name"
  done
  cat >"$folder/plugin-descriptor.properties" <<-END
	name=$name
	description=$name
	version=$version
	opensearch.version=$version
	java.version=11
	classname=org.opensearch.$class
	extended.plugins=${EXTENDS:-}
	has.native.controller=false
	END
  [ -z "$grants" ] || printf 'grant {\n%s\n};\n' "$grants" >"$folder/plugin-security.policy"
}

lay_out_modules() {
  local sockets='permission java.net.SocketPermission "*", "accept,connect,resolve";'
  local loaders='permission java.lang.RuntimePermission "getClassLoader";'
  module transport-netty4 transport.Netty4ModulePlugin "$sockets
    $loaders
    permission java.lang.RuntimePermission \"setContextClassLoader\";
    permission java.util.PropertyPermission \"*\", \"read,write\";
    permission java.io.FilePermission \"/proc/sys/net/core/somaxconn\", \"read\";" '*netty*'
  module reindex index.reindex.ReindexModulePlugin "$sockets
    permission java.net.NetPermission \"getProxySelector\";" \
    'reindex-*' 'opensearch-rest-client-*' 'opensearch-ssl-config-*' 'http*' 'commons-codec-*' 'commons-logging-*' 'slf4j-api-*'
  module lang-painless painless.PainlessModulePlugin "$loaders
    permission java.lang.RuntimePermission \"createClassLoader\";" 'lang-painless-*' '*-painless-spi-*' 'asm-*' 'antlr4-*'
  module mapper-extras index.mapper.MapperExtrasModulePlugin '' 'mapper-extras-*'
  EXTENDS=lang-painless module analysis-common analysis.common.CommonAnalysisModulePlugin '' 'analysis-common-*'
  EXTENDS=lang-painless module ingest-common ingest.common.IngestCommonModulePlugin '' \
    'ingest-common-*' 'opensearch-grok-*' 'opensearch-dissect-*' 'joni-*' 'jcodings-*'
}

# The plugin's zip names as needed a module that Central lacks and nothing here uses, and lacks a library that
# its check of privileges does use.
add_security() {
  local plugin=$building/plugins/opensearch-security java
  java=$(java_home)
  mkdir "$plugin"
  fetch dependency:copy -Dartifact="org.opensearch.plugin:opensearch-security:$version.0:zip" -DoutputDirectory="$building/zip"
  (cd "$plugin" && "$java/bin/jar" xf "$building"/zip/*.zip)
  rm -r "$building/zip"
  sed -i 's/^extended.plugins=.*/extended.plugins=/' "$plugin/plugin-descriptor.properties"
  if ! compgen -G "$plugin/commons-collections4-*.jar" >/dev/null; then
    fetch dependency:copy -Dartifact=org.apache.commons:commons-collections4:4.5.0 -DoutputDirectory="$plugin"
  fi
}

# assemble CACHE KIND, KIND being empty or "secured".
assemble() {
  local cache version log4j home building kind=${2:+$2.}
  cache=$(realpath -m "$1") version=$(property "${kind}opensearch.version") log4j=$(property "${kind}log4j.version")
  home=$cache/opensearch-$version-$layout${2:+-$2}
  if [ ! -d "$home" ]; then
    building=$home.building
    rm -rf "$building"
    mkdir -p "$building"/{agent,bin,extensions,lib,modules,plugins}
    fetch dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$building/lib"
    mv "$building"/lib/{"opensearch-agent-$version",opensearch-agent-bootstrap-*,byte-buddy-*}.jar "$building/agent/"
    lay_out_modules
    [ -z "$kind" ] || add_security
    chmod -R u+rwX,go+rX "$building"
    mv "$building" "$home" # only a whole server ever bears the final name
  fi
  echo "$home"
}

run() {
  local home=$1 node=$2 heap=$3 java
  java=$(java_home)/bin/java
  cd "$node"
  ulimit -n "$(ulimit -Hn)"
  # Serial collector and first-tier compiler: half the start-up time and memory, and no test here measures speed.
  exec "$java" -Xms"$heap" -Xmx"$heap" -Xss1m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -javaagent:"$(echo "$home"/agent/opensearch-agent-[0-9]*.jar)" --enable-native-access=ALL-UNNAMED \
    -XX:-OmitStackTraceInFastThrow -Djava.io.tmpdir="$node/tmp" -Djava.awt.headless=true -Dfile.encoding=UTF-8 \
    -Djava.locale.providers=SPI,CLDR -Djna.nosys=true -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true \
    -Dio.netty.noUnsafe=true -Dio.netty.noKeySetOptimization=true -Dio.netty.recycler.maxCapacityPerThread=0 \
    -Dio.netty.allocator.numDirectArenas=0 \
    -Dopensearch.networkaddress.cache.ttl=60 -Dopensearch.networkaddress.cache.negative.ttl=10 \
    -Dopensearch.distribution.type=tar -Dopensearch.bundled_jdk=false \
    -Dopensearch.path.home="$home" -Dopensearch.path.conf="$node/config" \
    -cp "$home/lib/*" org.opensearch.bootstrap.OpenSearch
}

case ${1:-} in
  assemble) assemble "$2" "" ;;
  secured) assemble "$2" secured ;;
  run) run "$2" "$3" "$4" ;;
  *) fail "usage: up.sh assemble CACHE | up.sh secured CACHE | up.sh run HOME NODE HEAP" ;;
esac
