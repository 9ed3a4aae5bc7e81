module go_calling

go 1.21
