# SPDX-License-Identifier: GPL-2.0-or-later

complete -c lp-serve-client -f
complete -c lp-serve-client -l runtime-dir -x -a '(__fish_complete_directories)' -d 'Where the service is'
complete -c lp-serve-client -l door -x -a 'fifo socket' -d 'Ask there only'
complete -c lp-serve-client -l no-fallback -d 'Fail instead of serving the connection here'
complete -c lp-serve-client -l version -d 'Show the version'
complete -c lp-serve-client -l help -d 'Show a short help text'
